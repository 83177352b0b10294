"""From placed crossbars to instructions and data sections; the pass is `smec.passes.emit`."""
