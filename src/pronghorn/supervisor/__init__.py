"""The process that starts workers, watches and replaces them, reloads, upgrades and drains."""
