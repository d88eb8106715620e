"""Maths: pure functions over plain values. They do no I/O, read no clock and draw no random numbers.

A function that needs numbers of the policy takes the section that holds them, as a parameter named after the section
(``fading(entered_at, excess, decay)``). No number of the policy has a default here.
"""
