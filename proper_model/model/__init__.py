"""The adapted model: experts, routers, user LoRAs and the loss over them (PROPER eq. 3-13)."""
