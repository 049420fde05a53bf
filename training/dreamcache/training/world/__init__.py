"""A procedural world of toys: seeded pictures with exact masks, captions and identities.

`identity` says who a toy is, `toys` of which parts it is built, `raycast` draws the parts, `scenes` paints
the places, `render` puts one into the other, `styles` redraws the whole, `captions` says it in words and `samples`
deals all of it out.
"""
