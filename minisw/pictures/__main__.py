"""The command `python -m minisw.pictures FOLDER`."""

from minisw.pictures import main

if __name__ == "__main__":
    main()
