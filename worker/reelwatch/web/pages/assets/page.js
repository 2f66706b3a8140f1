// Everything works without this script. With it times stay true, and what has changed is shown.
(() => {
  'use strict';
  const page = () => document.getElementById('page');
  // What answers a form stands at the form's address, which nothing can be got from.
  const at = document.querySelector('[data-at]')?.dataset.at;
  if (at) history.replaceState(history.state, '', at);
  const ahead = Date.parse(page().dataset.now) - Date.now(); // the server's clock and this one's

  // ------------------------------------------------------------- times
  function span(seconds) {
    const whole = Math.max(0, Math.floor(seconds)), two = (n) => String(n).padStart(2, '0');
    const minutes = Math.floor(whole / 60), hours = Math.floor(whole / 3600);
    if (whole < 60) return `${whole}s`;
    if (minutes < 60) return `${minutes}m${two(whole % 60)}s`;
    if (hours < 24) return `${hours}h${two(minutes % 60)}m`;
    return `${Math.floor(hours / 24)}d${two(hours % 24)}h`;
  }
  function relative(at) {
    const seconds = (at - Date.now() - ahead) / 1000;
    if (Math.abs(seconds) < 1) return 'now';
    return seconds > 0 ? `in ${span(Math.ceil(seconds))}` : `${span(-seconds)} ago`;
  }
  let asked = 0;
  function times() {
    let over = false;
    for (const each of document.querySelectorAll('time')) {
      const { count } = each.dataset, at = Date.parse(each.dateTime);
      if (!count && !/ago$|^in |^now$/.test(each.textContent)) continue;
      const past = (Date.now() + ahead - at) / 1000;
      if (count === 'down' && past >= 0) over = true;
      const text = count === 'up' ? span(past) : count === 'down' ? (past < 0 ? span(-past) : 'a moment')
        : relative(count ? at + 1000 * Math.max(0, past) : at); // what is to come soon is never past
      if (text !== each.textContent) each.textContent = text;
    }
    // What is to be expected after that the server knows.
    if (over && !document.hidden && !writing() && Date.now() - asked > 3000) {
      asked = Date.now();
      refresh().catch(() => {});
    }
  }
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
  function local() {
    if (!zone || zone === 'UTC') return;
    for (const each of document.querySelectorAll('time:not([data-local])')) {
      each.dataset.local = '';
      each.title += ` (${new Date(each.dateTime).toLocaleString()} ${zone})`;
    }
  }
  if (zone && zone !== 'UTC') document.getElementById('zone').textContent = ` and that of ${zone}`;

  // ------------------------------------------------------------ charts
  const drawn = new WeakMap();
  function charts() {
    if (!window.uPlot) return;
    for (const box of document.querySelectorAll('.chart')) {
      const data = JSON.stringify(box.dataset);
      if (drawn.get(box) === data && box.firstChild) continue;
      drawn.set(box, data);
      box.replaceChildren();
      new uPlot({ ...CHARTS[box.dataset.chart](box), width: box.clientWidth, height: 160 },
        ['x', ...Object.keys(box.dataset).filter((name) => !['chart', 'x', 'local'].includes(name))]
          .map((name) => JSON.parse(box.dataset[name])), box);
    }
  }
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const axis = (values) => ({
    stroke: colour('--soft'), grid: { stroke: colour('--line'), width: 1 }, ticks: { show: false },
    font: '11px system-ui, sans-serif', size: 38, ...(values && { values: (_, all) => all.map(values) }),
  });
  const line = (label, name, dash) => ({
    label, stroke: colour(name), width: 2, dash, points: { show: false },
    value: (_, value) => (value == null ? '' : value < 1.0001 && label !== '50 %' && label !== '90 %'
      ? `${Math.round(100 * value)} %` : `${value.toFixed(1)}s`),
  });
  /** As it is: an axis whose steps are 2.5 s says so. */
  const seconds = (value) => (value >= 60 ? span(value) : `${+value.toFixed(2)}s`);
  const day = (value) => new Date(1000 * value).toLocaleDateString('en-GB', { day: '2-digit', month: 'short', timeZone: 'UTC' });
  const CHARTS = {
    durations: () => ({
      scales: { x: { time: false }, y: { range: [0, 1] } }, cursor: { y: false },
      axes: [{ ...axis(seconds), size: 24 }, axis((value) => `${Math.round(100 * value)} %`)],
      series: [{ label: 'age', value: (_, value) => (value == null ? '' : span(value)) },
        line('measured', '--run'), line('learned', '--odd', [6, 4])],
    }),
    delays: () => ({
      cursor: { y: false }, scales: { y: { range: (_, low, high) => [0, (high || 1) * 1.1] } },
      axes: [{ ...axis(day), size: 30, space: 60 }, { ...axis(seconds), size: 52 }],
      series: [{ label: 'day (UTC)', value: (_, value) => (value == null ? '' : day(value)) }, dots('50 %', '--run'), dots('90 %', '--odd', [6, 4])],
    }),
  };
  const dots = (label, name, dash) => ({ ...line(label, name, dash), points: { show: true, size: 5 } });

  // ------------------------------------------------- what changes meanwhile
  const CLICKED = 'a, button, summary, input, select, label, li, tr';
  let pointer = null; // that of a mouse: a finger that has left points at nothing
  document.addEventListener('pointermove', (event) => {
    pointer = event.pointerType === 'touch' ? null : [event.clientX, event.clientY];
  }, { passive: true });
  document.addEventListener('pointerleave', () => { pointer = null; });
  /** What somebody is about to click, by mouse or by keyboard. */
  function aimedAt() {
    const pointed = under()?.closest(CLICKED);
    if (pointed && page().contains(pointed)) return pointed;
    const focused = document.activeElement;
    return focused && focused !== page() && page().contains(focused) ? focused : null;
  }
  /** Somebody is writing or choosing in a form: it must not change under their hands. */
  function writing() {
    const focused = document.activeElement;
    return focused && page().contains(focused) && focused.matches('input:not([type=checkbox]), select, textarea');
  }
  const under = () => pointer && document.elementFromPoint(...pointer);
  /** The rows that the list keeps: for as long as the page is open, or (`data-held`) while it is pointed at or focused. */
  function kept() {
    const list = page().querySelector('[data-ids]');
    const aimed = list?.contains(document.activeElement) || list?.contains(under());
    return aimed || !('held' in (list?.dataset ?? {})) ? list?.dataset.ids : '';
  }
  /** Scroll by what something has moved; where there is nothing to scroll, make room first. */
  function follow(moved) {
    const below = document.body.getBoundingClientRect().bottom - innerHeight;
    const room = moved > 0 ? moved - below : -moved - scrollY;
    if (room > 0) page().style[moved > 0 ? 'marginBottom' : 'marginTop'] = `${room}px`;
    if (moved > 0 || room <= 0) window.scrollBy({ top: moved, behavior: 'instant' });
    else window.scrollTo({ top: 0, behavior: 'instant' });
  }
  async function refresh() {
    const ids = kept();
    const url = new URL(location.href);
    if (ids) url.searchParams.set('ids', ids);
    const chosen = [...page().querySelectorAll('input:checked')].map((each) => each.value);
    const aim = aimedAt(), before = aim?.getBoundingClientRect().top;
    await htmx.ajax('GET', url.pathname + url.search, { target: '#page', swap: 'outerMorph' });
    for (const each of page().querySelectorAll('input[type=checkbox]')) each.checked = chosen.includes(each.value);
    const moved = aim?.isConnected ? aim.getBoundingClientRect().top - before : 0;
    if (moved) follow(moved);
    show();
  }
  const wait = (seconds) => new Promise((done) => setTimeout(done, 1000 * seconds));
  const shown = () => new Promise((done) => {
    if (!document.hidden) return done();
    document.addEventListener('visibilitychange', () => done(), { once: true });
  });
  async function watch() {
    while (page().dataset.topics) {
      await shown();
      const { token, topics } = page().dataset;
      try {
        const answer = await fetch(`/changes?token=${token}&topics=${encodeURIComponent(topics)}`);
        if (answer.status === 401 || answer.status === 403) return;
        if (!answer.ok || answer.redirected) { await wait(5); continue; }
        if (!(await answer.json()).changed) continue;
        while (writing()) await wait(0.5);
        await refresh();
        if (page().dataset.token === token) await wait(1);
      } catch {
        await wait(3); // the server is away for a while
      }
    }
  }

  // ------------------------------------------------------------ keyboard
  document.addEventListener('keydown', (event) => {
    const free = !event.target.closest('input, select, textarea') && !event.ctrlKey && !event.metaKey && !event.altKey;
    if (event.key === '/' && free) {
      event.preventDefault();
      document.getElementById('q').focus();
    }
  });

  function show() { times(); local(); charts(); }
  show();
  setInterval(times, 1000);
  window.matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => location.reload());
  watch();
})();
