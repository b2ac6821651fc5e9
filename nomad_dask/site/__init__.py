"""The site of a map: a folder of static files that shows tens of millions of points in a browser.

Every chunk of data is a classic script, ``nomad("NAME","BASE64")``, because browsers do not let a page that was
opened from disk fetch other files. Each chunk holds an Arrow stream, except ``site``, which holds JSON:

=================  ================================================================================================
``site``           number of rows, extent, columns with their categories, and how the rest is split into chunks
``index``          the tiles that exist: ``z``, ``x``, ``y`` and the number of rows
``tiles/z/x-y``    a random sample of the rows of a quad that are in no tile above
``text/k``         some rows for people to read: the position, ``@x`` and ``@y``, then the columns shown, as text
``search/h``       the words whose hash is h, each with a random sample of its rows
=================  ================================================================================================

The folder also has ``overview/k.png``, pictures of all points, and the files of the page itself.
"""
