"""What coordinator and nodes agree on: the protocol, the run plan, step times, machine facts."""
