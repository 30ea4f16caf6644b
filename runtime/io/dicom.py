def is_dicom(head): return head[128:132]==b'DICM'
