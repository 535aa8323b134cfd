"""Hosts that run Windows: looked at, changed and changed back.

- :mod:`.platform` is what the rest will ask; :mod:`.host`: a machine that is set up.
- :mod:`.observe` looks at one; :mod:`.recover` takes down what a dead instance has left.
- :mod:`.security`: the folder of journals, for administrators alone; :mod:`.file_lock`: who holds
  one.
- :mod:`.system`: what steps act through, by :mod:`.iphelper`, :mod:`.wfp` and :mod:`.resolvers`,
  which call Windows with the :mod:`.structures` that it wants; :mod:`.news`: what it tells;
  :mod:`.boot`: when it was started.

None of it has run on Windows: plans, order and undoing are tested against a fake
(``tests/kits/windows.py``), the calls against libraries that are played
(``tests/unit/host/test_windows_calls.py``), structures and numbers against the SDK's headers; wine
has run :mod:`.file_lock`.
"""
