"""The capture engine: values, what autograd records, unusual models, and the model afterwards."""

import copy

import captum.attr as captum_attr
import pytest
import torch
import torchvision
from torch import nn

import captum_extract_aggregate as cea
from captum_extract_aggregate._engine.recording import record
from captum_extract_aggregate._engine.taps import Place
from captum_extract_aggregate.attr.one_pass import places_of
from tests.conftest import SmallNet, relative_error
from tests.engine.cases import Head, X, equals_captum


def saved_bytes(run):
    """Bytes that autograd keeps for backward while `run` runs, each storage once."""
    sizes = {}

    def pack(t):
        sizes[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        run()
    return sum(sizes.values())


@pytest.mark.parametrize("to_input", [False, True])
def test_values_at_every_layer_equal_captum_s(small_net, images, to_input):
    small_net, images = small_net.double(), images.double()
    layers = [m for m in small_net.children() if m is not small_net.fc]
    mine = cea.LinearApproximation(small_net, layers).attribute(images, 2, attribute_to_layer_input=to_input)
    for layer, got in zip(layers, mine):
        theirs = captum_attr.LayerGradientXActivation(small_net, layer)
        expected = theirs.attribute(images, 2, attribute_to_layer_input=to_input).sum(1, keepdim=True)
        assert relative_error(got, expected) < 1e-12


def test_order_duplicates_and_nesting_do_not_matter():
    torch.manual_seed(0)
    net = torchvision.models.resnet18().eval().double()
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    layers = [net.layer4, net.layer1, net.layer4[-1], net.layer4[-1].relu, net.layer2, net.layer1]
    layers[3] = net.layer3[0].conv1
    together = cea.NormGrad(net, layers).attribute(x, 5)
    for layer, got in zip(layers, together):
        assert torch.allclose(got, cea.NormGrad(net, layer).attribute(x, 5), rtol=1e-10)
    assert torch.equal(together[0], together[2])  # a block and its last child give the same
    assert torch.equal(together[1], together[5])


def test_parallel_branches_and_inputs_used_before_the_layer_ran():
    torch.manual_seed(0)
    fire = torchvision.models.squeezenet.Fire(4, 3, 4, 4)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fire = fire

        def forward(self, x):
            return self.fire(x).square().mean((2, 3))

    net, x = Net().double(), torch.randn(2, 4, 6, 6, dtype=torch.float64)
    layers = [fire.expand3x3, fire.expand1x1]
    for to_input in (False, True):  # the input of expand3x3 was used by expand1x1 already
        mine = cea.LinearApproximation(net, layers).attribute(x, 2, attribute_to_layer_input=to_input)
        for layer, got in zip(layers, mine):
            theirs = captum_attr.LayerGradientXActivation(net, layer)
            expected = theirs.attribute(x, 2, attribute_to_layer_input=to_input).sum(1, keepdim=True)
            assert torch.allclose(got, expected, rtol=1e-10)


def test_nothing_below_the_earliest_layer_is_recorded_and_no_weight_is_differentiated():
    net = torchvision.models.resnet50().eval()
    x = torch.randn(2, 3, 96, 96)
    mine = saved_bytes(lambda: cea.LinearApproximation(net, net.layer4).attribute(x, 3))
    theirs = saved_bytes(lambda: captum_attr.LayerGradCam(net, net.layer4).attribute(x, 3))
    print(f"saved for backward: {mine / 1e6:.1f} MB against Captum's {theirs / 1e6:.1f} MB ({mine / theirs:.1%})")
    assert mine <= net.fc.weight.nbytes + 1e5
    assert mine / theirs < 0.1  # at 224 x 224 and batch 4 less than 2 %
    recording = record(net, x, [Place(net.layer3)])
    nodes, stack = set(), [recording.output.grad_fn]
    while stack:
        node = stack.pop()
        if node is not None and node not in nodes:
            nodes.add(node)
            stack += [following for following, _ in node.next_functions]
    leaves = [node for node in nodes if type(node).__name__ == "AccumulateGrad"]
    assert len(leaves) == 1  # the tapped tensor, and no parameter
    blocks = sum("Convolution" in type(node).__name__ for node in nodes)
    assert blocks == sum(isinstance(m, nn.Conv2d) for m in net.layer4.modules())


@pytest.mark.slow
def test_saved_bytes_at_full_size():
    net = torchvision.models.resnet50().eval()
    x = torch.randn(4, 3, 224, 224)
    mine = saved_bytes(lambda: cea.LinearApproximation(net, net.layer4).attribute(x, 3))
    theirs = saved_bytes(lambda: captum_attr.LayerGradCam(net, net.layer4).attribute(x, 3))
    print(f"saved for backward: {mine / 1e6:.1f} MB against Captum's {theirs / 1e6:.1f} MB ({mine / theirs:.2%})")
    assert mine / theirs <= 0.02


def test_any_callable_with_additional_arguments_and_several_inputs(small_net, images):
    """A generated caption's log-probability, say: a plain function that calls a model, twice as long as it is wide."""

    def caption_log_probability(x, y, words, weight):
        log_p = small_net(x + y).log_softmax(-1)
        return log_p.gather(1, words).sum(1) * weight

    words = torch.tensor([[0, 1], [2, 3], [4, 4]])
    method = cea.LinearApproximation(caption_log_probability, [small_net.conv1, small_net.conv3])
    maps = method.attribute((images, images), additional_forward_args=(words, 2.0))
    assert all(p.requires_grad for p in small_net.parameters())
    for layer, got in zip((small_net.conv1, small_net.conv3), maps):
        theirs = captum_attr.LayerGradientXActivation(caption_log_probability, layer)
        expected = theirs.attribute((images, images), additional_forward_args=(words, 2.0)).sum(1, keepdim=True)
        assert relative_error(got, expected) < 1e-5
    at_inputs = cea.LayerGradient(caption_log_probability).attribute((images, images), None, (words, 2.0))
    assert isinstance(at_inputs, tuple)
    assert torch.equal(*at_inputs)


def test_parameters_of_a_model_that_a_function_calls_are_frozen_too(small_net, images):
    mine = saved_bytes(lambda: cea.NormGrad(lambda x: small_net(x), small_net.conv3).attribute(images, 1))
    direct = saved_bytes(lambda: cea.NormGrad(small_net, small_net.conv3).attribute(images, 1))
    assert mine == direct


def test_channels_last_memory_and_strided_inputs(small_net, images):
    expected = cea.NormGrad(small_net, small_net.conv2).attribute(images, 1)
    net = small_net.to(memory_format=torch.channels_last)
    got = cea.NormGrad(net, net.conv2).attribute(images.to(memory_format=torch.channels_last), 1)
    assert torch.allclose(got, expected, rtol=1e-4, atol=1e-7)
    assert torch.allclose(cea.NormGrad(net, net.conv2).attribute(images.flip(3).flip(3), 1), expected, rtol=1e-4)


def test_half_precision_and_autocast(small_net, images):
    expected = cea.NormGrad(small_net, small_net.conv3).attribute(images, 1)
    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = cea.NormGrad(small_net, small_net.conv3).attribute(images, 1)
        assert torch.ones(1, 1).mm(torch.ones(1, 1)).dtype == torch.bfloat16
    assert under_autocast.dtype == torch.float32
    assert relative_error(under_autocast, expected) < 0.1
    for dtype in (torch.bfloat16, torch.float16):
        net = SmallNet().eval()
        net.load_state_dict(small_net.state_dict())
        net.to(dtype)
        try:
            net(images.to(dtype))
        except RuntimeError:
            continue  # this build has no such convolution on the CPU
        got = cea.NormGrad(net, net.conv3).attribute(images.to(dtype), 1)
        assert got.dtype == dtype
        assert relative_error(got.float(), expected) < 0.1


def test_data_parallel_wrapper(small_net, images, no_gpu):
    expected = cea.NormGrad(small_net, small_net.conv3).attribute(images, 1)
    for layer in ("conv3", "module.conv3", small_net.conv3):
        assert torch.equal(cea.NormGrad(nn.DataParallel(small_net), layer).attribute(images, 1), expected)


def test_integer_inputs_and_their_embedding():
    class Text(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.norm, self.head = nn.Embedding(9, 6), nn.LayerNorm(6), nn.Linear(6, 3)

        def forward(self, ids):
            return self.head(torch.tanh(self.norm(self.embedding(ids)))).mean(1)

    net, ids = Text(), torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]])
    for layer, to_input in ((net.embedding, False), (net.norm, True), (net.norm, False)):
        got = cea.LinearApproximation(net, layer, layout="channels_last").attribute(
            ids, 1, attribute_to_layer_input=to_input
        )
        theirs = captum_attr.LayerGradientXActivation(net, layer)
        expected = theirs.attribute(ids, 1, attribute_to_layer_input=to_input).sum(2).unsqueeze(1)
        assert torch.allclose(got, expected, rtol=1e-4, atol=1e-7)
        assert got.dtype == torch.float32


def test_maps_are_per_example(small_net, images):
    small_net, images = small_net.double(), images.double()
    target = torch.tensor([3, 0, 1])
    for method in (
        cea.NormGrad,
        cea.SelectiveNormGrad,
        cea.LinearApproximation,
        cea.LayerGradient,
        cea.GradCAM,
        cea.GradCAMPos,
        cea.GradMid,
        cea.GradCAMPlusPlus,
        cea.CumulativeGradCAM,
        cea.CumulativeGradMid,
        cea.BiasAttribution,
    ):
        batch = method(small_net, small_net.conv2).attribute(images, target)
        order = torch.tensor([2, 0, 1])
        assert torch.allclose(method(small_net, small_net.conv2).attribute(images[order], target[order]), batch[order])
        for i in range(3):
            one = method(small_net, small_net.conv2).attribute(images[i : i + 1], target[i : i + 1])
            assert torch.allclose(one, batch[i : i + 1], rtol=1e-10)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_on_a_gpu(small_net, images, dtype):
    expected = cea.NormGrad(small_net, small_net.conv3).attribute(images, 1)
    net = small_net.cuda().to(dtype)
    got = cea.NormGrad(net, net.conv3).attribute(images.cuda().to(dtype), 1)
    assert got.is_cuda
    assert got.dtype == dtype
    assert relative_error(got.float().cpu(), expected) < (1e-3 if dtype == torch.float32 else 0.1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_targets_share_views_of_activations_alone(dtype, small_net, images):
    """Copies in float32 would be kept for every layer until the last target."""
    net = copy.deepcopy(small_net).to(dtype)
    method = cea.NormGrad(net, ["conv1", "conv2"])
    plan = method.plan(to_input=False)
    evidence = next(method.run_pass(images.to(dtype), places_of(plan), None, [0, 1]))
    method.all_maps(images.to(dtype), evidence, plan)
    assert len(evidence.channels) == (2 if dtype == torch.float32 else 0)


def test_a_model_that_cannot_be_differentiated_for_its_in_place_operations():
    class Broken(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)

        def forward(self, x):
            y = self.conv(x).exp()
            z = y * 2
            y += 1
            return z + y

    net = Head(Broken())
    with pytest.raises(ValueError, match="could be trained"):
        cea.NormGrad(net, net.body.conv).attribute(X, 1)


def test_parameters_put_in_by_functional_call():
    net = SmallNet().eval()
    other = {name: (p.detach() * 1.5).requires_grad_() * 1 for name, p in net.named_parameters()}
    model = lambda x: torch.func.functional_call(net, other, (x,))  # noqa: E731
    got = cea.LinearApproximation(model, net.conv3).attribute(X.float(), 1)
    theirs = captum_attr.LayerGradientXActivation(model, net.conv3).attribute(X.float(), 1).sum(1, keepdim=True)
    assert torch.allclose(got, theirs, rtol=1e-4, atol=1e-7)


def test_weight_norm():
    conv = torch.nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3)).double()
    net = nn.Sequential(conv, nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert equals_captum(net, net[1])
    assert cea.NormGrad(net, conv, virtual_identity=False).attribute(X, 1).shape == (2, 1, 6, 6)


def test_a_finite_score_with_an_infinite_gradient():
    conv = nn.Conv2d(3, 4, 1)
    model = lambda x: (conv(x).relu().sum((2, 3)) * 0).sqrt()  # noqa: E731
    with pytest.raises(ValueError, match="though the score is not"):
        cea.NormGrad(model, conv).attribute(X.float(), 1)


@pytest.mark.parametrize("model", [lambda out: out[:1], lambda out: out.repeat(2, 1)])
def test_as_many_scores_as_examples(model):
    net = SmallNet().eval()
    with pytest.raises(ValueError, match="expected one per example"):
        cea.NormGrad(lambda x: model(net(x)), net.conv3).attribute(X.float(), 1)
