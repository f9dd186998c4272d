"""How a model continues a text: the loop, the strategies, and what steers them."""
