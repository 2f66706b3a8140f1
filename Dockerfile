# One image for every role; docker-compose.yml says who runs which command.
#
# Any base will do that has Python 3.11 or newer with its venv module as `python`, in both stages the same.
ARG BASE=python:3.13.14-slim-bookworm

FROM ${BASE} AS build

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/reelwatch
WORKDIR /src

# Dependencies in a layer of their own, which a change of our code leaves as it is.
COPY pyproject.toml constraints.txt ./
RUN python -c "import tomllib; project = tomllib.load(open('pyproject.toml', 'rb'))['project']; print(*project['dependencies'], *project['optional-dependencies']['web'], sep='\n')" > requirements.txt \
    && /opt/reelwatch/bin/pip install --constraint constraints.txt --requirement requirements.txt

COPY LICENSE README.md ./
COPY migrations migrations
COPY worker worker
RUN /opt/reelwatch/bin/pip install --no-deps .


FROM ${BASE}

RUN groupadd --system --gid 10001 reelwatch \
    && useradd --system --uid 10001 --gid reelwatch --no-create-home --shell /usr/sbin/nologin reelwatch

COPY --from=build /opt/reelwatch /opt/reelwatch
ENV PATH=/opt/reelwatch/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    LOG_FORMAT=json

# A number, so that an orchestrator can see that it is not root.
USER 10001:10001
WORKDIR /var/empty
CMD ["celery", "-A", "reelwatch", "worker", "--without-gossip", "--without-mingle"]
