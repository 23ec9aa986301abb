"""Deterministic simulation of the engine: one seed drives clocks, crashes, pauses, delays and refusals.

Several simulated processes, each the real runtime on an event loop of its own, share the memory store with its real
rules. No thread, no socket and no real time is in it, so a seed gives the same run, event for event, every time::

    python -m tests.simulation --seeds 0:5000          # many small runs; what fails is printed with its seed
    python -m tests.simulation --seed 1234 --trace     # one of them again, with everything that happened

The rooms, from the bottom up:

* ``loop``: an event loop on virtual time.
* ``world``: the virtual time, the agenda, and whose turn it is.
* ``process``: a process that runs the runtime; it crashes, stands still, is deployed anew; its clock is wrong.
* ``store``: the way from a process to the store, with delays, refusals and lost answers.
* ``corpus``, ``programs``: what is run, and which results are right.
* ``client``: what comes from outside, sent by processes that may crash while they send it.
* ``oracle``: watches the store and the activities all the time; ``verdict``: judges the histories at the end.
* ``faults``, ``simulation``: what a seed means, and the run of one seed.
"""
