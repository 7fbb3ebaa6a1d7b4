"""`python -m agentspan.cli`, for where the script is not on the path."""

from agentspan.cli.main import main

if __name__ == "__main__":
    main()
