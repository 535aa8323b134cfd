"""What client, DNS and worker share of the network, each once.

``happy_eyeballs`` (which address is connected to), ``sockets`` (marked ones, by ``uplinks`` where
there are no marks), ``listen`` (at an address), ``readiness`` (one task for many sockets),
``watch`` (a descriptor, without waking a task), ``rest`` (idle tasks wait together), ``tls`` (what
a client verifies), ``names`` (host names, IDNA, ADDRESS:PORT), ``plain_dns`` (what answers a
query), ``fairness`` (turns and shares of sources), ``backoff`` (delays between attempts),
``descriptors`` (what to do without), ``netns`` (namespaces of Linux), ``darwin`` and ``windows``
(numbers and structures of those).
"""
