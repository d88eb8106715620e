"""The market's state: prices of regime drivers, their states, and the levers A and E that follow from them."""
