"""A system-wide VPN client: lwIP, trio and a WebSocket."""

__version__ = "0.1.0"
