"""What is changed on a host, decided: state in, steps out, no input and output.

::

    state = ...                        # a HostState: what the host looks like
    plan = make_plan(config, state)    # what to do about it, in order
    for step in plan.steps:
        step.do(system)                # system: a System, one network namespace

- :mod:`.config`: what the user and the tunnel want of the host.
- :mod:`.state`: what a host looks like; :mod:`.marks`: whose packet marks its rules use.
- :mod:`.make`: the steps from one to the other, in an order that never leaves the host open;
  :mod:`.firewall`: the ruleset; :mod:`.addresses`: those of the TUN; :mod:`.conflicts`: what
  others use of what would be ours. They are Linux's; :mod:`.macos` and :mod:`.windows` have their
  own, and share :mod:`.halves`.
- :mod:`.steps`: the kinds of step, one class each, and how to add one.
- :mod:`.system`: what steps act through.
"""
