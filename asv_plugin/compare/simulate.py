"""How often `make ab` calls a true change worse, inconclusive and unchanged, by simulation.

    python -m asv_plugin.compare.simulate --deviation 0.04 0.07 [--rounds 2 5 10] [--loss 0 0.1] [--factor 1.05]

Pairs are drawn whose log ratios are normal with the given deviation ("deviation" in --json of a comparison) around
the true ratio, and judged by `asv_plugin.compare.verdict.compare` itself.
"""

import argparse
import math
import random
from collections import Counter

from tabulate import tabulate

from asv_plugin.compare.trial import PAIRS_IN_A_ROUND
from asv_plugin.compare.verdict import Pair, Reading, compare
from asv_plugin.rules import Rule

SHOWN = ("worse", "inconclusive", "unchanged", "better")


def verdicts(
    loss: float, deviation: float, rounds: int, factor: float, comparisons: int, seed: int = 0
) -> Counter[str]:
    """How many of `comparisons` of a speed that lost the share `loss` got which verdict."""
    rng, rule = random.Random(seed), Rule(higher_is_better=True, factor=factor)
    center = math.log(1 - loss)

    def one() -> str:
        ratios = [math.exp(rng.gauss(center, deviation)) for _ in range(rounds * PAIRS_IN_A_ROUND)]
        return compare("", [Pair(Reading(1.0), Reading(ratio)) for ratio in ratios], rule).verdict

    return Counter(one() for _ in range(comparisons))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m asv_plugin.compare.simulate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--deviation", type=float, nargs="+", required=True, help="of a pair's log ratio")
    parser.add_argument("--rounds", type=int, nargs="+", default=[5], help="default: make ab's 5")
    parser.add_argument("--loss", type=float, nargs="+", default=[0.0, 0.1], help="true losses of speed (0, 0.1)")
    parser.add_argument("--factor", type=float, default=1.05, help="the threshold (default: %(default)s)")
    parser.add_argument("--comparisons", type=int, default=2000, help="a row (default: %(default)s)")
    asked = parser.parse_args()
    rows = []
    for loss in asked.loss:
        for deviation in asked.deviation:
            for rounds in asked.rounds:
                found = verdicts(loss, deviation, rounds, asked.factor, asked.comparisons)
                shares = [f"{found[verdict] / asked.comparisons:.1%}" for verdict in SHOWN]
                rows.append([f"{loss:.0%}", f"{deviation:.0%}", rounds, *shares])
    print(tabulate(rows, ["Loss", "Deviation", "Rounds", *SHOWN], disable_numparse=True))


if __name__ == "__main__":
    main()
