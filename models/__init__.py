"""The shared vocabulary: nouns, the model catalogue, protocols, errors and the doubles we ship.

Imports none of our other packages, nor ray, nor a web framework; everything else may import it.
"""
