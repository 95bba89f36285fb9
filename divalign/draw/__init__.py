"""Pictures as SVG: axes, marks, panels. Numbers with their intervals come in; what they measure is not known here."""
