"""Benchmarks: dash_dispatch and its peers, side by side in one run, on the machine at hand.

``python -m benchmarks`` runs all rows, ``python -m benchmarks latency`` one of them,
``python -m benchmarks publish`` draws the plots, and writes the tables of README.md and
docs/scaling.md, from the numbers that were kept.

What makes the figures comparable:

- Every peer runs in an environment of its own, made from ``peers/<peer>/requirements.txt``.
- Peers are measured in turns, several rounds of each, in an order that rotates. A ratio is taken
  within each round; what is reported is the median of the rounds' ratios, and their range.
- Where latency under load is measured, requests are sent at a fixed rate whatever the server does,
  and their time counts from the moment at which they were due.
- The client is one asyncio process that speaks HTTP and websocket by itself (``clients``). The CPU
  share of it, of every server process, of everything else on the machine, and what the machine did
  not get from its host is printed beside each figure: a client far below 1.00 did not hold the
  server up. What it can do where a server does nothing is a contestant of its own. Figures that any
  of these may have spoilt are marked as doubtful.
"""
