"""`python -m axialcli` is `axial`."""

from __future__ import annotations

from axialcli.cli.start import main

if __name__ == "__main__":
    main()
