import torch

from adapt_lora.model.lora_linear import _LoraLinear


def test_the_lora_layer_passes_torch_s_own_check_of_gradients():
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    weight, bias = draw(5, 4), draw(5)
    trained = [draw(2, 3, 4), draw(2, 4), draw(5, 2)]
    for tensor in trained:
        tensor.requires_grad_()

    def layer(states, a, b):
        return _LoraLinear.apply(states, weight, bias, a, b, 1.7)

    assert torch.autograd.gradcheck(layer, trained)
    states, a, b = trained
    assert torch.allclose(layer(*trained), states @ weight.T + bias + 1.7 * states @ a.T @ b.T)
