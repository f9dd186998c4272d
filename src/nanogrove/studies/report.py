def write_report(out, findings):
    pass
