"""``make simulate``: false lessons of markets that persist without an edge, which planted edges are found, and what
each rule of going back to the preset costs."""

import argparse
import time
from collections.abc import Callable, Sequence

import numpy as np

from closeloop.learning.trades import Group
from closeloop.models.policy import MiningPolicy
from tests.learning import simulated, simulated_market, simulated_weights

LIFTS = (0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0)
WEEKS = (30, 48, 60, 100)
WORTHS = (0.2, 0.3, 0.5, 0.8)  # of a state of the market (R)


def false_lessons(name: str, case: Callable[[int], Group], seeds: Sequence[int]) -> None:
    """Print how many lessons a case without an edge gives."""
    found = [len(simulated.accepted(case(seed))) for seed in seeds]
    print(f"{name:<52}{np.mean(found):>10.2f}{max(found):>6}", flush=True)


def power(n: int, conditions: int, seeds: Sequence[int]) -> None:
    """Print how often an edge of each size is found exactly as planted."""
    shares = [np.mean([simulated.found_exactly(seed, n, conditions, lift) for seed in seeds]) for lift in LIFTS]
    smallest = next((f"{lift:g} R" for lift, share in zip(LIFTS, shares, strict=True) if share >= 0.8), "none")
    row = "".join(f"{share:>7.0%}" for share in shares)
    print(f"{n:>6} trades, {conditions} conditions{row}   {smallest}", flush=True)


def quarters(seeds: Sequence[int]) -> None:
    """Print what blocks of 12 weeks change, never and always weighed: false lessons, and edges of a regime found."""
    print(f"\n{'12-week blocks weighed':<40}{'false: mean':>24}{'edge of .8 R found':>24}")
    print(f"{'':<40}{'never':>12}{'always':>12}{'never':>12}{'always':>12}")
    policies = [MiningPolicy(quarter_weeks=weeks) for weeks in (10**6, 0)]
    for weeks in WEEKS:
        cases: dict[str, Callable[[int], Group]] = {
            "random walk, calendar": lambda seed, weeks=weeks: simulated.random_walk(seed, days=7 * weeks),
            "AR .98, regimes of 30 days": lambda seed, weeks=weeks: simulated.regimes(
                seed, 5_000, 7 * weeks, 0.98, 0.5, 30.0
            ),
        }
        for name, case in cases.items():
            false = [np.mean([len(simulated.accepted(case(seed), each)) for seed in seeds]) for each in policies]
            found = [
                np.mean([simulated.regime_edge_found(seed, 7 * weeks, 0.8, each) for seed in seeds])
                for each in policies
            ]
            print(
                f"{f'{weeks} weeks: {name}':<40}" + "".join(f"{x:>12.2f}" for x in (*false, *found)),
                flush=True,
            )


def reverts(seeds: Sequence[int]) -> None:
    """Print what each rule of going back to the preset makes, in R a trade more than the preset, and its reverts."""
    count, flip = simulated_weights.CYCLES, simulated_weights.FLIP
    print(f"\n{f'R a trade above the preset (± s.e.), {count} cycles':<50}{'seed':>16}{'guarded':>16}{'none':>16}")
    for case in simulated_weights.CASES:
        found = simulated_weights.mean_gains(seeds, case)
        rules = [found["seed"], found["guarded"], found["none"]]
        for name, of in (("whole", "all cycles"), ("later", f"those after {flip}"), ("reverts", "reverts")):
            row = "".join(
                f"{f'{getattr(mean, name):+.3f} ± {getattr(error, name):.3f}':>16}"
                if name != "reverts"
                else f"{mean.reverts:>16.1f}"
                for mean, error in rules
            )
            print(f"{f'{case}: {of}':<50}{row}", flush=True)


def states_of_the_market(seeds: Sequence[int]) -> None:
    """Print how often noise is told from noise, at one look and at any of all looks, and which worth is found."""
    print(f"\n{'worth of states: books without any':<52}{'one told':>10}")
    for name, case in simulated_market.NOISE.items():
        found = [bool(simulated_market.told(case(seed))) for seed in seeds]
        print(f"{name:<52}{np.mean(found):>10.1%}", flush=True)
    for name in ("independent, normal", "the same, drivers move together"):
        some = [simulated_market.told_at_any_look(simulated_market.NOISE[name](seed)) for seed in seeds]
        print(f"{'at any look: ' + name:<52}{np.mean(some):>10.1%}", flush=True)
    print(f"\n{'found, of a state that is worth':<34}" + "".join(f"{lift:>6g} R" for lift in WORTHS))
    for n, days in ((500, 150), (1_000, 300), (3_000, 600), (10_000, 900)):
        for horizon, hours in simulated_market.HOURS.items():
            shares = [
                np.mean([simulated_market.power(seed, n, days, horizon, lift) for seed in seeds]) for lift in WORTHS
            ]
            row = "".join(f"{share:>8.0%}" for share in shares)
            print(f"{f'{n} trades, spells of {hours:g} h':<34}{row}", flush=True)


def main() -> None:
    """Everything, in one run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20, help="How many seeds of each case.")
    parser.add_argument("--first", type=int, default=0, help="The first of them; another one: fresh ones.")
    parser.add_argument(
        "--only", choices=("false", "power", "quarters", "reverts", "market"), help="One of the tables."
    )
    asked = parser.parse_args()
    seeds = range(asked.first, asked.first + asked.seeds)
    started = time.process_time()
    print(f"{asked.seeds} seeds from {asked.first}; 8 dimensions of 4 values")
    if asked.only in (None, "false"):
        print(f"\n{'no edge, 5,000 trades':<52}{'false: mean':>11}{'max':>5}")
        for name, case in {**simulated.INDEPENDENT, **simulated.PERSISTING}.items():
            false_lessons(name, case, seeds)
    if asked.only in (None, "power"):
        print("\nfound exactly as planted  " + "".join(f"{f'{lift:g} R':>7}" for lift in LIFTS) + "   80 % from")
        for n, conditions, _ in simulated.POWER:
            power(n, conditions, seeds)
    if asked.only in (None, "quarters"):
        quarters(seeds)
    if asked.only in (None, "reverts"):
        reverts(seeds)
    if asked.only in (None, "market"):
        states_of_the_market(seeds)
    print(f"\n{time.process_time() - started:.0f} s of processor time")


if __name__ == "__main__":
    main()
