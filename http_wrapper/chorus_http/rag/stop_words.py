"""Words that stand in every text and so tell none from another: of English and German.

They are left out of searches by words because reading what holds them costs most and orders nothing. Negations stay.
"""

from __future__ import annotations

_ENGLISH = """
a about after all also an and any are as at be because been before being between both but by can could did do does
doing each for from further had has have having he her here hers him his how i if in into is it its itself just let me
more most my of off on once only or other our ours out over own s same she should so some such t than that the their
theirs them then there these they this those through to too under until up us very was we were what when where which
while who whom whose why will with would you your yours
"""
_GERMAN = """
aber als am an auch auf aus bei bin bis bist da damit das dass dem den der des die dies diese dieser dieses doch du
durch ein eine einem einen einer eines er es euch für hab habe haben hat hatte hier ich ihm ihn ihr ihre im in ist ja
jede jeder jedes kann können man mein mich mir mit nach noch nur ob oder sein seine sich sie sind so über um und uns
unser unter vom von vor war waren was weil welche welcher welches wenn wer werden wie wir wird wo zu zum zur
"""

STOP_WORDS = frozenset((_ENGLISH + _GERMAN).split())
