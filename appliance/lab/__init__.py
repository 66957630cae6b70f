"""The lab: a site's appliances and its neighbours as QEMU machines on this computer, with faults
to order.

`appliance.lab.pair.Lab` is the way in. No tap, no port and no privilege: every cable is an
inherited socket pair.
"""
