"""The command line: one file per command.

Law: nothing here is ever imported by a worker. A command reads what a person typed, checks it, and hands over; what
it hands over to knows neither click nor rich.
"""
