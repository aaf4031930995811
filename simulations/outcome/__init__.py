"""What a run left behind: devices, predictions, times, results."""
