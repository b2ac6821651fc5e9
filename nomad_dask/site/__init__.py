"""The site of a map: a folder of static files that shows tens of millions of points in a browser.

Every part is a classic script, ``nomad("NAME","BASE64")``, because browsers refuse to fetch files beside a page
that was opened from disk. The parts hold an Arrow stream each, but for ``site``, which holds JSON:

=================  ================================================================================================
``site``           what there is: number of rows, extent, columns with their categories, and how the rest is cut
``index``          the tiles that exist: ``z``, ``x``, ``y`` and the number of rows
``tiles/z/x-y``    the rows of a quad that come first by chance and that no tile above holds
``text/k``         some rows as people read them: where they are, ``@x`` and ``@y``, then the columns shown, as text
``search/h``       the words whose hash is h, each with its first rows by chance
=================  ================================================================================================

Beside them are ``overview/k.png``, pictures of all points, and the files of the page itself.
"""
