"""The fault drill: a fleet at work while everything around it fails, by a seeded script.

`python -m tests.drill` (which is `make drill`) runs 2,000 jobs; the tests run a short one.

- `world`: the fleet, the producer beside it, and what they stand on
- `faults`: what can befall them, one function each
- `script`: which faults, in which order; handing in the jobs meanwhile
- `invariants`: what must be true afterwards, by the databases and by what upstream, the receiver
  and the producer saw
- `report`: the tables
"""
