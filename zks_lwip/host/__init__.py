"""What is changed on a host so that its traffic enters the TUN, and nothing else leaves.

- :mod:`.plan` decides, and is pure: state in, steps out. To add a kind of step, see
  :mod:`.plan.steps`.
- :mod:`.base` puts a plan into force and takes it back, with :mod:`.apply`, which does a step, and
  :mod:`.journal`, where it is written down before (a :mod:`.locked_file`); :mod:`.recover` takes
  back what an instance that died has left; :mod:`.monitor` follows what others change meanwhile.
  All that for every system.
- :mod:`.platform`: what a system has to give, and the one that this is: :mod:`.linux`,
  :mod:`.macos`, :mod:`.windows`. What they tell is in :mod:`.reports`.
- :mod:`.rootless` runs one command in namespaces of its own (Linux); :mod:`.published` lets
  programs of the host connect to it.
- :mod:`.options`: what the user can be asked about the host; :mod:`.resolv_conf`: what is kept of
  the host's resolv.conf(5); :mod:`.state_directory`: where journals and the control socket are;
  :mod:`.accounts`: users and groups; :mod:`.programs` runs programs;
  :mod:`.ssh`: whether a plan would cut the SSH connection that the command came over.

To add a system, ``x`` say:

1. ``plan/x/``, pure: the kinds of step (``steps.py``: classes below ``@kind``, as in
   :mod:`.plan.steps`, with names that no other system's have), what they act through
   (``system.py``: a protocol), what such a host looks like (``state.py``: a
   :class:`~.plan.state.HostState` with what only it has) and ``make_plan`` with ``with_state``
   (``make.py``, a :class:`~.base.Planner`). What closes comes first, what opens last. An option
   that the system cannot fulfil is a ``ConfigError``, not left out.
2. ``x/``: the system itself (a :class:`~.base.HostSystem` that fulfils the protocol, and looks at
   the host), a host (a :class:`~.base.BaseHost`), and ``platform.py``, which fulfils
   :class:`~.platform.Platform`. A line in ``_SYSTEMS`` of ``platform.py`` makes ``connect`` and
   what belongs to it work there.
3. Its device in :mod:`zks_lwip.device`; how sockets stay out of it in :mod:`zks_lwip.net.sockets`,
   where each has one meaning of ``mark``; ``STATE_DIR`` in ``plan/config.py``; ``boot_id`` in
   ``journal.py``; the lock in ``locked_file.py``; the clocks in ``monitor.py``.
4. Tests on any system: golden plans and commands, and a fake of the protocol that fails at every
   step (``tests/kits/host.py`` has Linux's).
"""
