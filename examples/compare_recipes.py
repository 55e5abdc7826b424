"""Train two recipes under several seeds, and ask which is better.

python examples/compare_recipes.py work text audio
"""

import typer

import emi_ray

SEEDS = [1, 2, 3]


def main(workspace: str, first: str, second: str, epochs: int = 10) -> None:
    emi_ray.train(workspace, [first, second], seeds=SEEDS, settings={"training.epochs": epochs})
    found = emi_ray.compare(workspace, [first, second])
    for system, scores in zip(found.systems, found.scores, strict=True):
        print(f"{system.name:>10}: mean r {scores[-1]:+.3f} over {len(system.seeds)} seeds")
    print(found.pairs[0].verdict)


if __name__ == "__main__":
    typer.run(main)
