"""The process that keeps workers alive: spawn, watch, replace, resize, reload, upgrade, drain."""
