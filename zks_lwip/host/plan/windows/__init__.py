"""What is changed on a machine that runs Windows: pure, see :mod:`zks_lwip.host.plan`.

- :mod:`.make` decides, :mod:`.filters` says what the kill switch lets out.
- :mod:`.steps`: the kinds of step; :mod:`.system`: what they act through; :mod:`.state`: what such
  a machine looks like.
"""
