"""ONNX files, read from the protobuf wire format and held to what the exports of this project consist of."""
