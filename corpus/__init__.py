"""ZPPO-77K and questions of one's own: building, checking, showing, comparing data sets."""
