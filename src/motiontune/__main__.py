"""`python -m motiontune`, which `torchrun -m motiontune` and `accelerate launch -m motiontune` start."""

from motiontune.cli import main


if __name__ == "__main__":
    main()
