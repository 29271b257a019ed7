"""What ConvNets learn, looked at by the techniques of CS231n: a batch in, named arrays out."""
