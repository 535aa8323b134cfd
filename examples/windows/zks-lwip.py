"""What the program of the installer begins with."""

from zks_lwip.cli import main

if __name__ == "__main__":
    main(prog_name="zks-lwip")
