"""Labels in Parquet files, as pyarrow, pandas and Hugging Face `datasets` read and write them.

One row for each image, with lists for its crops:

=============  ==========================  ==================================================================
column         type                        what
=============  ==========================  ==================================================================
`key`          string                      name of the image
`image_size`   list<int32>                 height and width
`image_crc32`  uint32                      CRC-32 of the image's file; may be left out
`crops`        list<list<int32 or float>>  top, left, height, width of each crop; pixels, or floats as fractions
`flips`        list<bool>                  whether it is mirrored
`probs`        list<list<float>>           probabilities of all classes; or `logits`, or `features`; or else
`indices`      list<list<int32>>           the most probable classes of each crop
`values`       list<list<float>>           their probabilities; without them labels are `hard`
=============  ==========================  ==================================================================

Files with one row for each crop are read as well: `key`, `image_size`, `crop` (list), `flip` (bool), and `probs`, `logits`, `features`,
or `indices` and `values` (list). The rows of an image must follow one another.

`num_classes` is an entry of the schema's metadata, or a column; so is `about` (see `softlabel_codec.formats.arrays`).
"""
