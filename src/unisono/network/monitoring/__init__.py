"""What an institution's own monitoring reads of a service: numbers, and whether it is alive and can work; on loopback only."""
