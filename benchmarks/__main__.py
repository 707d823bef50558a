"""Command line: hand the options over to the benchmark that was named."""

import argparse
import importlib
import importlib.util

NAMES = (
    "topics",
    "correlated",
    "dynamic",
    "neural_topics",
    "depth",
    "gamma_def",
    "belief_network",
    "sparse_codes",
    "mixtures",
    "labels",
    "supervised",
    "tfidf",
    "readings",
    "recommend",
    "scale",
    "wide",
    "latency",
    "gpu",
    "grid",
    "fuzz",
    "same_fits",
)


def main():
    """Run ``benchmarks.NAME.main`` with the options that follow NAME."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Each NAME has options of its own: NAME --help.",
    )
    parser.add_argument("name", choices=NAMES, metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("options", nargs=argparse.REMAINDER)
    chosen = parser.parse_args()
    module = f"benchmarks.{chosen.name}"
    if importlib.util.find_spec(module) is None:
        parser.error(f"there is no {chosen.name} benchmark yet")
    importlib.import_module(module).main(chosen.options)


if __name__ == "__main__":
    main()
