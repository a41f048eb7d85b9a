"""Subnets and addresses, names, rules of the firewall: decided here. Nothing here touches the machine."""
