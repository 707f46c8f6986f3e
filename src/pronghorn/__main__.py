"""`python -m pronghorn` is the command `pronghorn`."""

from pronghorn.cli.main import main

if __name__ == "__main__":
    main()
