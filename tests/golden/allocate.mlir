// before allocate{bits=4 max-crossbars=6}
#h0 = #smec.handle<"0000000000000000000000000000000000000000000000000000000000000001", "float32", [3, 6, 1, 1]>
#h1 = #smec.handle<"0000000000000000000000000000000000000000000000000000000000000002", "float32", [3]>
"builtin.module"() ({
  "smec.graph"() ({
  ^bb0(%x: tensor<1x6x1x2xf32>):
    %x$$1 = "quant.quantize"(%x) : (tensor<1x6x1x2xf32>) -> tensor<1x6x1x2x!quant.u<8, 1.0, 0>> loc("<model>":0:0)
    %relu = "quant.conv"(%x$$1) {name = "conv", tensor = "relu", float_weight = #h0, bias = #h1, clamp_min = 0.0 : f64, clamp_max = 0x7FF0000000000000 : f64, strides = array<i64: 1, 1>, pads = array<i64: 0, 0, 0, 0>, dilations = array<i64: 1, 1>, groups = 1 : i64} : (tensor<1x6x1x2x!quant.u<8, 1.0, 0>>) -> tensor<1x3x1x2xf32> loc("conv"("<model>":0:0))
    %y = "smec.host"(%relu) ({
    ^bb0(%relu$$1: tensor<1x3x1x2xf32>):
      %y$$1 = "nn.Softmax"(%relu$$1) {axis = 1 : i64, _tensor = "y"} : (tensor<1x3x1x2xf32>) -> tensor<1x3x1x2xf32> loc("softmax"("<model>":0:0))
      "smec.return"(%y$$1) : (tensor<1x3x1x2xf32>) -> () loc("softmax"("<model>":0:0))
    }) {name = "host0", batchable = true} : (tensor<1x3x1x2xf32>) -> tensor<1x3x1x2xf32> loc("softmax"("<model>":0:0))
    "smec.return"(%y) : (tensor<1x3x1x2xf32>) -> () loc("<model>":0:0)
  }) {sym_name = "main", opset = 17 : i64, input_names = ["x"], output_names = ["y"], batch = array<i64: 0>} : () -> () loc("<model>":0:0)
  "smec.graph"() ({
  ^bb0(%x$$2: tensor<1x6x1x2xf32>):
    %w = "nn.Constant"() {value = #h0} : () -> tensor<3x6x1x1xf32> loc("w"("<model>":0:0))
    %b = "nn.Constant"() {value = #h1} : () -> tensor<3xf32> loc("b"("<model>":0:0))
    %conv = "nn.Conv"(%x$$2, %w, %b) {group = 1 : i64, _tensor = "conv", kernel_shape = array<i64: 1, 1>, strides = array<i64: 1, 1>, pads = array<i64: 0, 0, 0, 0>, dilations = array<i64: 1, 1>, _unit = "conv", _kind = "conv"} : (tensor<1x6x1x2xf32>, tensor<3x6x1x1xf32>, tensor<3xf32>) -> tensor<1x3x1x2xf32> loc("conv"("<model>":0:0))
    %relu$$2 = "nn.Relu"(%conv) {_tensor = "relu", _unit = "conv", _kind = "conv"} : (tensor<1x3x1x2xf32>) -> tensor<1x3x1x2xf32> loc("relu"("<model>":0:0))
    %y$$2 = "nn.Softmax"(%relu$$2) {axis = 1 : i64, _tensor = "y", _unit = "host0", _kind = "host"} : (tensor<1x3x1x2xf32>) -> tensor<1x3x1x2xf32> loc("softmax"("<model>":0:0))
    "smec.return"(%y$$2) : (tensor<1x3x1x2xf32>) -> () loc("<model>":0:0)
  }) {sym_name = "float", opset = 17 : i64, input_names = ["x"], output_names = ["y"], batch = array<i64: 0>, _types = [tensor<1x6x1x2x!quant.u<8, 1.0, 0>>]} : () -> () loc("<model>":0:0)
}) {levels = ["nn.partitioned", "nn.calibrated", "quant.float"], passes = ["partition", "calibrate{method=min-max}", "quantize-activations"]} : () -> () loc("<model>":0:0)
// 1: float32 [3, 6, 1, 1] = 15 4 0 1 3 0 0 8 0 -1 15 0 -15 2 0 2 0 1
// 2: float32 [3] = 0 8 -8
// -----
// after allocate{bits=4 max-crossbars=6}
#h0 = #smec.handle<"0000000000000000000000000000000000000000000000000000000000000001", "float32", [3, 6, 1, 1]>
#h1 = #smec.handle<"0000000000000000000000000000000000000000000000000000000000000002", "float32", [3]>
#a0 = ["partition", "calibrate{method=min-max}", "quantize-activations", "allocate{max-crossbars=6 bits=4}"]
"builtin.module"() ({
  "smec.graph"() ({
  ^bb0(%x: tensor<1x6x1x2xf32>):
    %x$$1 = "quant.quantize"(%x) : (tensor<1x6x1x2xf32>) -> tensor<1x6x1x2x!quant.u<8, 1.0, 0>> loc("<model>":0:0)
    %relu = "quant.conv"(%x$$1) {name = "conv", tensor = "relu", float_weight = #h0, bias = #h1, clamp_min = 0.0 : f64, clamp_max = 0x7FF0000000000000 : f64, strides = array<i64: 1, 1>, pads = array<i64: 0, 0, 0, 0>, dilations = array<i64: 1, 1>, groups = 1 : i64, bits = 4 : i64, shift = "fit", pattern = "uniform", sign = "twos-complement", squeeze = 1 : i64, scale = "column", constraints = "", double = true} : (tensor<1x6x1x2x!quant.u<8, 1.0, 0>>) -> tensor<1x3x1x2xf32> loc("conv"("<model>":0:0))
    %y = "smec.host"(%relu) ({
    ^bb0(%relu$$1: tensor<1x3x1x2xf32>):
      %y$$1 = "nn.Softmax"(%relu$$1) {axis = 1 : i64, _tensor = "y"} : (tensor<1x3x1x2xf32>) -> tensor<1x3x1x2xf32> loc("softmax"("<model>":0:0))
      "smec.return"(%y$$1) : (tensor<1x3x1x2xf32>) -> () loc("softmax"("<model>":0:0))
    }) {name = "host0", batchable = true} : (tensor<1x3x1x2xf32>) -> tensor<1x3x1x2xf32> loc("softmax"("<model>":0:0))
    "smec.return"(%y) : (tensor<1x3x1x2xf32>) -> () loc("<model>":0:0)
  }) {sym_name = "main", opset = 17 : i64, input_names = ["x"], output_names = ["y"], batch = array<i64: 0>} : () -> () loc("<model>":0:0)
  "smec.graph"() ({
  ^bb0(%x$$2: tensor<1x6x1x2xf32>):
    %w = "nn.Constant"() {value = #h0} : () -> tensor<3x6x1x1xf32> loc("w"("<model>":0:0))
    %b = "nn.Constant"() {value = #h1} : () -> tensor<3xf32> loc("b"("<model>":0:0))
    %conv = "nn.Conv"(%x$$2, %w, %b) {group = 1 : i64, _tensor = "conv", kernel_shape = array<i64: 1, 1>, strides = array<i64: 1, 1>, pads = array<i64: 0, 0, 0, 0>, dilations = array<i64: 1, 1>, _unit = "conv", _kind = "conv"} : (tensor<1x6x1x2xf32>, tensor<3x6x1x1xf32>, tensor<3xf32>) -> tensor<1x3x1x2xf32> loc("conv"("<model>":0:0))
    %relu$$2 = "nn.Relu"(%conv) {_tensor = "relu", _unit = "conv", _kind = "conv"} : (tensor<1x3x1x2xf32>) -> tensor<1x3x1x2xf32> loc("relu"("<model>":0:0))
    %y$$2 = "nn.Softmax"(%relu$$2) {axis = 1 : i64, _tensor = "y", _unit = "host0", _kind = "host"} : (tensor<1x3x1x2xf32>) -> tensor<1x3x1x2xf32> loc("softmax"("<model>":0:0))
    "smec.return"(%y$$2) : (tensor<1x3x1x2xf32>) -> () loc("<model>":0:0)
  }) {sym_name = "float", opset = 17 : i64, input_names = ["x"], output_names = ["y"], batch = array<i64: 0>, _types = [tensor<1x6x1x2x!quant.u<8, 1.0, 0>>]} : () -> () loc("<model>":0:0)
}) {levels = ["nn.partitioned", "nn.calibrated", "quant.float", "quant.allocated"], passes = #a0} : () -> () loc("<model>":0:0)
