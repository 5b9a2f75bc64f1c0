"""``python -m lit_metric`` is ``lit-metric``."""

from lit_metric.cli import main

if __name__ == "__main__":
    main()
