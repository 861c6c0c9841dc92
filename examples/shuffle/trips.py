"""Taxi trips as New York publishes them, made up: `python3 trips.py SEED PART ROWS` prints a part, always the same.

A line is PICKUP,FROM,TO,PASSENGERS,DISTANCE,FARE: the second of the month, two zones, a number of people, hundredths of
a mile, cents.
"""

from __future__ import annotations

import random
import sys

ZONES = 263


def trip(choose: random.Random) -> str:
    """Return one line. Few zones have most of the trips."""
    zones = [int(ZONES * choose.random() ** 3) + 1 for _ in range(2)]
    distance = int(choose.expovariate(1 / 300)) + 10
    fare = 300 + distance * 2 + choose.randrange(0, 500, 50)
    return f"{choose.randrange(30 * 86400)},{zones[0]},{zones[1]},{choose.randint(1, 6)},{distance},{fare}"


if __name__ == "__main__":
    seed, part, rows = sys.argv[1:]
    chooser = random.Random(f"{seed} {part}")
    for _ in range(int(rows)):
        print(trip(chooser))
