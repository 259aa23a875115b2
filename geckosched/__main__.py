"""`python -m geckosched` is `geckosched`."""

from geckosched.cli import main

if __name__ == "__main__":
    main()
