// before calibrate{method=min-max}
#h0 = #smec.handle<"0000000000000000000000000000000000000000000000000000000000000001", "float32", [3, 6, 1, 1]>
#h1 = #smec.handle<"0000000000000000000000000000000000000000000000000000000000000002", "float32", [3]>
"builtin.module"() ({
  "smec.graph"() ({
  ^bb0(%x: tensor<1x6x1x2xf32>):
    %w = "nn.Constant"() {value = #h0} : () -> tensor<3x6x1x1xf32> loc("w"("<model>":0:0))
    %b = "nn.Constant"() {value = #h1} : () -> tensor<3xf32> loc("b"("<model>":0:0))
    %conv = "nn.Conv"(%x, %w, %b) {group = 1 : i64, _tensor = "conv", kernel_shape = array<i64: 1, 1>, strides = array<i64: 1, 1>, pads = array<i64: 0, 0, 0, 0>, dilations = array<i64: 1, 1>, _unit = "conv", _kind = "conv"} : (tensor<1x6x1x2xf32>, tensor<3x6x1x1xf32>, tensor<3xf32>) -> tensor<1x3x1x2xf32> loc("conv"("<model>":0:0))
    %relu = "nn.Relu"(%conv) {_tensor = "relu", _unit = "conv", _kind = "conv"} : (tensor<1x3x1x2xf32>) -> tensor<1x3x1x2xf32> loc("relu"("<model>":0:0))
    %y = "nn.Softmax"(%relu) {axis = 1 : i64, _tensor = "y", _unit = "host0", _kind = "host"} : (tensor<1x3x1x2xf32>) -> tensor<1x3x1x2xf32> loc("softmax"("<model>":0:0))
    "smec.return"(%y) : (tensor<1x3x1x2xf32>) -> () loc("<model>":0:0)
  }) {sym_name = "main", opset = 17 : i64, input_names = ["x"], output_names = ["y"], batch = array<i64: 0>} : () -> () loc("<model>":0:0)
}) {levels = ["nn.partitioned"], passes = ["partition"]} : () -> () loc("<model>":0:0)
// 1: float32 [3, 6, 1, 1] = 15 4 0 1 3 0 0 8 0 -1 15 0 -15 2 0 2 0 1
// 2: float32 [3] = 0 8 -8
// -----
// after calibrate{method=min-max}
#h0 = #smec.handle<"0000000000000000000000000000000000000000000000000000000000000001", "float32", [3, 6, 1, 1]>
#h1 = #smec.handle<"0000000000000000000000000000000000000000000000000000000000000002", "float32", [3]>
"builtin.module"() ({
  "smec.graph"() ({
  ^bb0(%x: tensor<1x6x1x2xf32>):
    %w = "nn.Constant"() {value = #h0} : () -> tensor<3x6x1x1xf32> loc("w"("<model>":0:0))
    %b = "nn.Constant"() {value = #h1} : () -> tensor<3xf32> loc("b"("<model>":0:0))
    %conv = "nn.Conv"(%x, %w, %b) {group = 1 : i64, _tensor = "conv", kernel_shape = array<i64: 1, 1>, strides = array<i64: 1, 1>, pads = array<i64: 0, 0, 0, 0>, dilations = array<i64: 1, 1>, _unit = "conv", _kind = "conv"} : (tensor<1x6x1x2xf32>, tensor<3x6x1x1xf32>, tensor<3xf32>) -> tensor<1x3x1x2xf32> loc("conv"("<model>":0:0))
    %relu = "nn.Relu"(%conv) {_tensor = "relu", _unit = "conv", _kind = "conv"} : (tensor<1x3x1x2xf32>) -> tensor<1x3x1x2xf32> loc("relu"("<model>":0:0))
    %y = "nn.Softmax"(%relu) {axis = 1 : i64, _tensor = "y", _unit = "host0", _kind = "host"} : (tensor<1x3x1x2xf32>) -> tensor<1x3x1x2xf32> loc("softmax"("<model>":0:0))
    "smec.return"(%y) : (tensor<1x3x1x2xf32>) -> () loc("<model>":0:0)
  }) {sym_name = "main", opset = 17 : i64, input_names = ["x"], output_names = ["y"], batch = array<i64: 0>, _types = [tensor<1x6x1x2x!quant.u<8, 1.0, 0>>]} : () -> () loc("<model>":0:0)
}) {levels = ["nn.partitioned", "nn.calibrated"], passes = ["partition", "calibrate{method=min-max}"]} : () -> () loc("<model>":0:0)
