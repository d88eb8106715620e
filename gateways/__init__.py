"""The outside world: files of other programs, price sources, models. One small protocol each."""
