"""Problems: the only room that knows seqio, TensorFlow and tfds."""
