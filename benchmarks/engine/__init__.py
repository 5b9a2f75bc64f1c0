"""What the engine takes, beside its peers, on the reader's own machine.

A module here has a function ``measure(out, quick)``, which returns a list of results. Each is an object that
:func:`benchmarks.engine.measures.measured` has written to ``out/NAME.json`` and returned. To add a measure,
write such a module, and name it in ``MODULES`` of ``benchmarks/engine/__main__.py``.
"""
