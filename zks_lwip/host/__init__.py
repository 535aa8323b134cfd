"""What is changed on a host so that its traffic enters the TUN, and nothing else leaves.

Pure: :mod:`~zks_lwip.host.config`, :mod:`~zks_lwip.host.state`, :mod:`~zks_lwip.host.steps`,
:mod:`~zks_lwip.host.firewall` and :mod:`~zks_lwip.host.plan`, the decisions. Linux:
:mod:`~zks_lwip.host.linux` puts a plan into force, :mod:`~zks_lwip.host.rootless` runs one command.
"""
